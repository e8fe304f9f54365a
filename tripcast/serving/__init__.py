"""The prediction service: a web API and a page, which answer from models held in memory."""
