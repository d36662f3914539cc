"Batches, callbacks, and what goes into training unseen"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'loaders': ['dataloaders'],
    'ready': ['prepare', 'Prepared'],
})
