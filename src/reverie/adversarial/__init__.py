"""What adversarial training is made of: losses, penalties, augmentation of what the discriminator sees."""
