"""Statistics of result tables: numbers in, numbers out. What may be claimed from them is decided in
`analysis.claims`."""
