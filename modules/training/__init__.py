"""The loop that train.py and train_diff.py share, in small parts."""
