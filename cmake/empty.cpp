// What belongs to a precompiled header must have a source.
