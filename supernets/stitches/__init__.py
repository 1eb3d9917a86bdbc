"""Parts of the stitched ResNets: anchors, positions, least squares, the recipe, SN-Net's names."""
