"""`fsbench sharpness`: from a run, or a network and a data set, to recorded measures. Importing it is cheap."""
