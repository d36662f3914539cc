"Images of one film, however it was resized, turned or cropped"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'find': ['find_twins'],
})
