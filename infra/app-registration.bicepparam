using 'app-registration.bicep'

param defender = true
param graphIndicators = true
param graphPermissions = ['SecurityAlert.Read.All', 'User.Read.All']
