"""Write the golden files that do not exist yet."""

from golden import write_missing

write_missing()
