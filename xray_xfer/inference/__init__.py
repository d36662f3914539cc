"What is asked of a run where it is used: does it know this image, or anything like it?"
