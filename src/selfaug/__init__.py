"""selfaug."""
