print("folder", __name__, __file__)
