"""The five steps as KFP components: data, synthesize, train, evaluate, push."""
