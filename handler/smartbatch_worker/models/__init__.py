"""One file a kind of model: from the archive's files to a module that is ready to answer."""
