import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--needed", required=True)
parser.parse_args()
