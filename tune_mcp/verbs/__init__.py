"""The twelve verbs: one function a tool. Server and command line both call these, and nothing below them."""
