"""The steps of the pipelines: one file a step, each a typed sentence that calls the library.

Only a step's text travels to where it runs, so each imports what it needs from the installed library, in its body.
"""
