"""`smartbatch study`: settings compared in interleaved rounds."""
