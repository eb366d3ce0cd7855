"""Studies as data: what is trained, what is asked, what is planned, and how a report is made of it."""
