"""Images in, features out: the classical networks a head is grafted onto."""
