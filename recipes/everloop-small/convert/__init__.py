"""One module a kind of data: given public files in, training and validation rows out."""
