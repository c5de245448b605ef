"""The gate under poison: wrong labels are refused, right ones are not."""
