"""Results in words and tables, as the terminal, the pages and the documentation share them."""
