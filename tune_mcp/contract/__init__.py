"""The contract in code: what each verb takes and answers, as types. Nothing here does anything."""
