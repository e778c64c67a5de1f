"""What several wishes share: a run prepared, cut, divided, brought from buckets and carried there, looked over."""
