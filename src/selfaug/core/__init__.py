"""core: pure arithmetic."""
