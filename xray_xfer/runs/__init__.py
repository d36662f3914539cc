"The folder of a finished run: written whole, read back"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'folder': ['load_run'],
})
