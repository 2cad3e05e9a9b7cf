"""Pictures: which file of which format is cut down to what, and how it becomes what the model is shown.

`jpeg_files`, `png_files` and `webp_files` each know one format's container and decode nothing; `exif` knows which way
is up; `fit` brings pixels to the size that the model is shown; `pictures` has the readers. The table in
`formats/__init__.py` is the only one to import from here.
"""
