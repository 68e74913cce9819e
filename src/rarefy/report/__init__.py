"""What people read: sizes, tables and progress in a terminal."""
