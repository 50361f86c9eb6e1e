"""From a folder of documents to passages that can be searched, and training rows made from them."""
