"""What is made from the declarations: the reference pages, the editors' words."""
