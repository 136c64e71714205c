"""A judge measured against people: do they agree, and where does the judge lean?"""
