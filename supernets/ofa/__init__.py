"""Parts of the Once-for-All families: ResNet blocks and space, the names of the `ofa` package."""
