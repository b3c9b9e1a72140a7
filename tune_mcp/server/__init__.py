"""The MCP face: translation between the protocol and the verbs, no policy of its own."""
