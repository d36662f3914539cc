"The frozen part: cut off, run once, kept"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'cutting': ['cut'],
    'once': ['features'],
})
