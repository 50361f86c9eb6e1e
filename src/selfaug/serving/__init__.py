"""One OpenAI-compatible endpoint for the base model and the tuned model."""
