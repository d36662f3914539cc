"Finished runs at work: new images, another hospital's, and what is asked of each: does the run know it, or its like?"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'elsewhere': ['external'],
    'sheet': ['explain'],
    'stream': ['predict'],
})
