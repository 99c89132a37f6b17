"""Names of the sets that every study evaluates; no pydantic here, for the hub starts with it."""

EVALUATED_SETS = ("forget", "approximate", "retain", "general")
