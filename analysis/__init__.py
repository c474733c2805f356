"""What a policy keeps in memory and whether it uses it: recorded episodes, numbers, reports and interventions."""
