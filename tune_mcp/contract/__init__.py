"""What each verb takes and answers, as types. Nothing here does anything."""
