"""Networks in, trained networks out: the loop, the folds and the files they leave."""
