"""The prediction service: a web API and a page about taxi trips."""
