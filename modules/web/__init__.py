"""The web page of webUI.py: one module a tab, the texts in two languages, the server around them."""
