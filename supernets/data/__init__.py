"""Images and labels: a folder, a data set, the embedded digits; pixels as the server makes them."""
