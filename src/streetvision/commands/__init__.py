"""`streetvision ...`: one module a command; what a command runs is imported when it runs."""
