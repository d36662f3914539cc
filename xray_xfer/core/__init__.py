"Small things that every room needs: files written whole, the cache, plain words"
