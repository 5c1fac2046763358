"""MaskRIS's model, which is CARIS's: Swin, BERT with prompts from the image, and a pixel decoder that sees the words."""
