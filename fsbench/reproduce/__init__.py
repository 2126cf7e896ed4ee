"""From the declaration of a table or figure to its runs, their measures and its files. Importing it is cheap."""
