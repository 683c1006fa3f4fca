"""Estimators and the function API below them: validate, call, label."""
