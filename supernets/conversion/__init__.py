"""How an ordinary model becomes elastic: finding stages and channels, putting operators in."""
