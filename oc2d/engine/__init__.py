"""What happens to a request: intake, journal, dispatch, schedule."""
