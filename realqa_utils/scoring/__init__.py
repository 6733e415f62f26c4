"""How photographs are read: the digit tree, forms, folders, clips, and how far to trust a score."""
