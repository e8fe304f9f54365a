"""Folders and S3: artifacts, atomic files, Arrow tables."""
