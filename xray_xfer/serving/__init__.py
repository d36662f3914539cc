"Finished runs behind a page of this machine: images in, answers out, and nothing kept"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'server': ['serve'],
})
